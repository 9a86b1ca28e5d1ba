//! What consumers ask of a store, by their needs: one narrow trait each.
//!
//! [`port!`] writes three things from one list of methods: the trait, which both
//! databases implement; the trait of [`Store`](crate::Store), which hands over to the
//! database it is; and the same methods on `Store` itself, so that a caller that holds
//! one needs no import. No call is boxed.

macro_rules! port {
    (
        $(#[$about:meta])*
        $name:ident {
            $(
                $(#[$doc:meta])*
                fn $method:ident(&self $(, $argument:ident: $kind:ty)* $(,)?) -> $answer:ty;
            )*
        }
    ) => {
        $(#[$about])*
        pub trait $name: Send + Sync {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// Faults of the store, and those that are named above.
                fn $method(
                    &self $(, $argument: $kind)*
                ) -> impl Future<Output = Result<$answer, $crate::StoreError>> + Send;
            )*
        }

        impl $crate::Store {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// Faults of the store, and those that are named above.
                pub async fn $method(&self $(, $argument: $kind)*) -> Result<$answer, $crate::StoreError> {
                    match self {
                        Self::Sqlite(store) => $name::$method(store $(, $argument)*).await,
                        Self::Postgres(store) => $name::$method(store $(, $argument)*).await,
                    }
                }
            )*
        }

        impl $name for $crate::Store {
            $(
                async fn $method(&self $(, $argument: $kind)*) -> Result<$answer, $crate::StoreError> {
                    $crate::Store::$method(self $(, $argument)*).await
                }
            )*
        }
    };
}
pub(crate) use port;
