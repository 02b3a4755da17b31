//! One process in fresh namespaces, from a plan given as data.
