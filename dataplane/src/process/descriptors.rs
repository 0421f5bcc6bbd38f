//! How many descriptors this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many descriptors as the system gives without more privileges: each connection takes two. What is refused leaves what there was.
pub(crate) fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// How many there are, if that is fewer than programs are commonly given.
pub(crate) fn few() -> Option<u64> {
    getrlimit(Resource::Nofile).current.filter(|current| *current < 1024)
}
