//! What a container's first process prints, as it comes.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;

/// Bytes on their way to the reader.
const PIPE_BYTES: usize = 16 * 1024;
/// Between two looks whether there is more.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the file from there on, until its writer runs no more. The reader may go away.
pub(super) async fn follow(
    file: &Path,
    from: u64,
    runs: impl Fn() -> bool + Send + 'static,
) -> io::Result<DuplexStream> {
    let mut file = File::open(file).await?;
    file.seek(io::SeekFrom::Start(from)).await?;
    let (mut guest, reader) = duplex(PIPE_BYTES);
    tokio::spawn(async move {
        let mut buffer = vec![0; PIPE_BYTES];
        loop {
            // Asked before the file is read: what was printed before the end is not missed.
            let ended = !runs();
            loop {
                match file.read(&mut buffer).await {
                    Ok(0) => break,
                    Ok(read) if guest.write_all(&buffer[..read]).await.is_ok() => {}
                    Ok(_) | Err(_) => return,
                }
            }
            if ended {
                return;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                // The reader sends nothing; this ends when it is gone.
                _ = guest.read_u8() => return,
            }
        }
    });
    Ok(reader)
}
