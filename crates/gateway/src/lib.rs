//! The public edge: authentication, routes, ingress, streaming, limits.
