//! The fake passes the suite, so that tests on it mean something.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{RunId, VolumeId};
use palatine_sandbox::conformance::{self, Harness};
use palatine_sandbox::fake::{FakeHost, GuestConnection};
use palatine_sandbox::{GuestFacts, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct OnFakes(FakeHost);

#[async_trait]
impl Harness for OnFakes {
    async fn driver(&self) -> Arc<dyn Runtime> {
        Arc::new(self.0.driver())
    }

    fn base(&self) -> PathBuf {
        "/dev/null".into()
    }

    async fn crash(&self, id: RunId, _facts: &GuestFacts) {
        self.0.crash(id);
    }

    async fn write(&self, id: RunId, text: &str) {
        self.0.write_data(id, text);
    }

    async fn written(&self, id: RunId) -> String {
        self.0.data(id).unwrap_or_default()
    }

    async fn make_volume(&self, id: VolumeId) -> bool {
        self.0.add_volume(id);
        true
    }

    fn boot_deadline(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn healthy(arrival: GuestConnection) -> bool {
    let mut stream = arrival.stream;
    tokio::spawn(async move {
        let mut request = [0; 16];
        stream.read_exact(&mut request).await.expect("a request");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("somebody listens");
    });
    true
}

#[tokio::test]
async fn the_fake_conforms() {
    let host = FakeHost::new(healthy);
    host.lose_volumes();
    assert_eq!(conformance::run(&OnFakes(host)).await.unwrap(), conformance::cases(true));
}
