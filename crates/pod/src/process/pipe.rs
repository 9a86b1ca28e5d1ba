//! One end of a pipe or of a terminal, without blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// A descriptor that is read and written as it is ready.
#[derive(Debug)]
pub(crate) struct AsyncPipe(AsyncFd<OwnedFd>);

impl AsyncPipe {
    /// Takes the descriptor over.
    ///
    /// # Errors
    /// It cannot be waited for.
    #[expect(unsafe_code, reason = "the runtime keeps the descriptor's number beside its owner")]
    pub(crate) fn new(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = fd.into();
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: an `OwnedFd` is open, is one and the same as long as it lives,
        // and never leaves this value.
        let registered = unsafe { AsyncFd::register(fd) };
        registered.map(Self).map_err(io::Error::from)
    }

    /// Reads what is there, waiting for the first byte; 0 at the end.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(done) = ready.try_io(|fd| ended(rustix::io::read(fd, &mut *buffer))) {
                return done;
            }
        }
    }

    /// Reads what is there now: `None` where that is nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match ended(rustix::io::read(self, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            done => done.map(Some),
        }
    }

    /// Writes some of the bytes, waiting until there is room.
    ///
    /// # Errors
    /// What the kernel says; a broken pipe where nobody reads any more.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(done) = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                return done;
            }
        }
    }
}

impl AsFd for AsyncPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// A terminal whose last process is gone answers EIO: its end.
fn ended(read: rustix::io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(Errno::IO) => Ok(0),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (AsyncPipe, AsyncPipe) {
        let (read, write) = std::io::pipe().unwrap();
        (AsyncPipe::new(read).unwrap(), AsyncPipe::new(write).unwrap())
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_a_closed_end_is_seen() {
        let (read, write) = pipe();
        let mut buffer = [0; 8];
        assert_eq!(read.read_now(&mut buffer).unwrap(), None);
        assert_eq!(write.write(b"abc").await.unwrap(), 3);
        assert_eq!(read.read(&mut buffer).await.unwrap(), 3);
        drop(write);
        assert_eq!(read.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_an_error_and_no_signal() {
        let (read, write) = pipe();
        drop(read);
        assert_eq!(write.write(b"abc").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
