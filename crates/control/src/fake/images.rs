//! Images that holders bring to a fake node: bytes in memory. An archive that begins with `bad`
//! is no image; one that begins with `slow` becomes one, twice as large, when the test says so. What
//! is to be built is kept as it was said, and is what its log says.

use async_trait::async_trait;
use client::NodeError;
use domain::ImageId;
use http_body_util::BodyExt;
use wire::fault::{Code, Fault};
use wire::v1::images::{ArchiveSpec, BuildLogPart, HeldImage, ImportSpec};

use crate::fake::node::FakeNode;
use crate::fake::state::FakeUpload;
use crate::fleet::node::{NodeBody, NodeImages};

fn refused(code: Code, said: &str) -> NodeError {
    NodeError::Refused(Box::new(Fault::new(code, said)))
}

impl FakeNode {
    /// The images and uploads that it has.
    #[must_use]
    pub fn held(&self) -> Vec<ImageId> {
        self.state().uploads.keys().copied().collect()
    }

    /// Ends the work on the archives that begin with `slow`.
    pub fn finish_imports(&self) {
        self.state().uploads.values_mut().for_each(FakeUpload::finish);
    }

    fn append_now(&self, id: ImageId, offset: u64, piece: &[u8]) -> Result<(), NodeError> {
        let mut state = self.state();
        let upload = state.uploads.get_mut(&id).ok_or_else(|| refused(Code::NotFound, "there is no such upload"))?;
        if upload.bytes.len() as u64 != offset {
            return Err(refused(Code::UploadOffset, "the upload is at another offset"));
        }
        if offset + piece.len() as u64 > upload.spec.size {
            return Err(refused(Code::BodyTooLarge, "more came than was said"));
        }
        upload.bytes.extend_from_slice(piece);
        Ok(())
    }
}

#[async_trait]
impl NodeImages for FakeNode {
    async fn begin(&self, id: ImageId, spec: ArchiveSpec) -> Result<HeldImage, NodeError> {
        let new = FakeUpload { spec, bytes: Vec::new(), made: None, build: None, holder: None };
        self.ask("begin the upload of an image", move |node| {
            node.state().uploads.entry(id).or_insert_with(|| new.clone()).shown()
        })
        .await
    }

    async fn append(&self, id: ImageId, mut offset: u64, mut body: NodeBody) -> Result<HeldImage, NodeError> {
        self.append_now(id, offset, b"")?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| refused(Code::InvalidRequest, "the body ended before it was whole"))?;
            let Ok(piece) = frame.into_data() else { continue };
            self.append_now(id, offset, &piece)?;
            offset += piece.len() as u64;
        }
        self.find(id).await?.ok_or_else(|| refused(Code::NotFound, "there is no such upload"))
    }

    async fn find(&self, id: ImageId) -> Result<Option<HeldImage>, NodeError> {
        self.ask("look at an image", move |node| node.state().uploads.get(&id).map(FakeUpload::shown)).await
    }

    async fn import(&self, id: ImageId, spec: ImportSpec) -> Result<HeldImage, NodeError> {
        let made = self.ask("have an image made of an upload", move |node| {
            let mut state = node.state();
            let upload =
                state.uploads.get_mut(&id).ok_or_else(|| refused(Code::NotFound, "there is no such upload"))?;
            if (upload.bytes.len() as u64) < upload.spec.size {
                return Err(refused(Code::WrongState, "the archive is not whole"));
            }
            Ok(upload.make(&spec))
        });
        made.await?
    }

    async fn log(&self, id: ImageId, from: u64) -> Result<BuildLogPart, NodeError> {
        let said = self.ask("read the log of a build", move |node| {
            let FakeUpload { build, holder, .. } = node.state().uploads.get(&id)?.clone();
            let text = format!("{:?} for {holder:?}\n", build?);
            let at = usize::try_from(from).unwrap_or(usize::MAX).min(text.len());
            Some(BuildLogPart { from: at as u64, text: text[at..].to_owned(), next: text.len() as u64 })
        });
        said.await?.ok_or_else(|| refused(Code::NotFound, "there is no such build"))
    }

    async fn forget(&self, id: ImageId) -> Result<(), NodeError> {
        self.ask("forget an image", move |node| {
            node.state().uploads.remove(&id);
        })
        .await
    }
}
