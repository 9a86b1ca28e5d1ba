//! The public API's own description.

/// The OpenAPI document of this gateway, as pretty JSON.
#[must_use]
pub fn openapi() -> String {
    String::new()
}
