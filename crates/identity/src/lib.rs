//! A POD's key: the keystore it lies in, and what it signs.
