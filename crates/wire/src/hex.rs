//! How the EVM's values are described in the OpenAPI documents.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $pattern:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).pattern(Some($pattern)).into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

texts! {
    /// An address of the EVM, for documents alone.
    EvmAddress = "^0x[0-9a-fA-F]{40}$";
    /// A hash, a task's id or a transaction's, for documents alone.
    EvmHash = "^0x[0-9a-fA-F]{64}$";
}
