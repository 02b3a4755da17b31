//! The one bridge from async code into blocking code.

/// Runs `work` on a thread where it may block, and waits for it. A panic in `work` goes on in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Begins `work` on a thread where it may block, and goes on: for what the caller will want to have been done.
pub fn beside(work: impl FnOnce() + Send + 'static) {
    // a panic in it has been told by then
    drop(tokio::task::spawn_blocking(work));
}
