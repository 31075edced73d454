//! A registry that misbehaves on demand, and the one that Debian has.

mod faults;
mod real;
mod server;
