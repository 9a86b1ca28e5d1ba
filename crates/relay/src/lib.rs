//! The gasless relayer, and a client for another one.
