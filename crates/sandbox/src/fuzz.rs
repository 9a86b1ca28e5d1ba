//! What is fuzzed of this crate: what a VMM says, which its guest may have taken over.

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::drivers::qemu::Qmp;

/// Bytes that fit into a socket before anybody reads them.
const MOST: usize = 64 << 10;

/// QEMU's control socket: whatever it says, questions to it come to an end.
///
/// # Panics
/// When the bytes break that.
pub fn qmp(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let (ours, mut vmms) = UnixStream::pair().expect("a pair of sockets can be made");
        vmms.write_all(bytes).await.expect("it fits");
        vmms.shutdown().await.expect("it ends");
        let Ok(mut qmp) = Qmp::over(ours).await else { return };
        // Each answer takes a line, so the end comes before so many.
        let lines = bytes.split(|byte| *byte == b'\n').count();
        for asked in 0..=lines {
            if qmp.name().await.is_err() && qmp.condition().await.is_err() {
                return;
            }
            assert!(asked < lines, "an answer was made of nothing");
        }
    });
}
