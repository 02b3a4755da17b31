//! The system call filter of a sandbox: Docker's default rules as data ([`table`]), compiled to classic BPF ([`mod@compile`]).
//!
//! Calls that the table does not name fail with `EPERM`; calls newer than the table fail with `ENOSYS`, so that C libraries
//! fall back to older ones. x86-64 and 32-bit x86 programs may run; x32 calls have numbers past the table's and get `ENOSYS`.
//!
//! `socketcall` of 32-bit programs is let through as under Docker: its arguments lie in memory, out of a filter's sight.
//!
//! A filter is built once per launcher, in well under a millisecond.
//! Source of the rules: the default profile of github.com/moby/profiles, for containers with Docker's default capabilities.

mod compile;
mod table;

pub(super) use compile::compile;
