//! Starts of functions that bring programs of their own: a box with a listener, whose programs speak the Lambda Runtime API.
//! To the rest of the pool it is a boot like any other.
//!
//! It finds out which programs there are; how they live together is in `runtime_api`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offshoot_model::{Error, ErrorKind, Language, Network, StartKind};

use super::start::{Loaded, refused};
use super::{Pool, Refusal};
use crate::runtime::Installed;
use crate::runtime_api::{self, Setup};
use crate::templates::{Mode, program};

/// Where a runtime's program is looked for, in this order (AWS's).
const BOOTSTRAPS: &[&str] = &["/var/task/bootstrap", "/opt/bootstrap"];
/// The variable that names a program to be executed around the runtime's.
const WRAPPER: &str = "AWS_LAMBDA_EXEC_WRAPPER";
/// The directory of external extensions, in a layer and in the box.
const EXTENSIONS: &str = "extensions";
/// Room for the state of a durable execution in an event, in bytes, with its escapes.
const DURABLE_PAGE: u64 = 32 << 20;
/// External extensions that are looked at, at most; one more than there may be, so that the surplus is noticed.
const MAX_LISTED: usize = runtime_api::MAX_EXTENSIONS + 1;

impl Pool {
    /// Whether this function's box has a listener: a program of its own runs in it and speaks the Runtime API, instead of a
    /// worker of ours, around one (`AWS_LAMBDA_EXEC_WRAPPER`), or beside one (external extensions).
    pub(super) fn is_served(&self) -> bool {
        let config = &self.version.config;
        config.runtime.language == Language::Provided
            || self.wrapper().is_some()
            || !self.external_extensions().is_empty()
            // Without privilege the door of a durable function's clone could not tell who knocks: refused where such boxes are made.
            || (self.is_durable() && self.shared.rootless && config.network == Network::Host)
    }

    /// Whether the function reaches its own executions from its box.
    pub(super) fn is_durable(&self) -> bool {
        self.version.fields.as_deref().is_some_and(|fields| fields.durable.is_some())
    }

    fn wrapper(&self) -> Option<&String> {
        self.version.config.env.get(WRAPPER).filter(|path| !path.is_empty())
    }

    /// Starts a box for a program of the function's own.
    pub(super) async fn start_served(self: &Arc<Self>, installed: &Installed) -> Result<Loaded, Refusal> {
        let config = &self.version.config;
        let host_network = config.network == Network::Host;
        if host_network && self.shared.rootless {
            let why = "without privilege, boxes on the machine's network cannot be told apart: \
                       a custom runtime needs network = none there";
            return Err(Refusal::Platform(Error::new(ErrorKind::SandboxUnavailable, why)));
        }
        let began = Instant::now();
        let base = program(installed, Mode::Boot, self.shared.templates.runtime_dir());
        let request = self.request(false);
        let limits = &self.shared.limits;
        // What an execution was begun with is text in JSON in the event of its invocations.
        let room = if self.is_durable() {
            limits.request_bytes.saturating_mul(2) + DURABLE_PAGE
        } else {
            limits.request_bytes
        };
        let in_frames = usize::try_from(room).unwrap_or(usize::MAX);
        let made = self.shared.driver.start_served(&base, &request, in_frames).await;
        let served = made.map_err(refused)?;
        let provided = config.runtime.language == Language::Provided;
        let bootstraps = || BOOTSTRAPS.iter().map(|path| vec![(*path).to_owned()]).collect();
        let setup = Setup {
            programs: if provided { bootstraps() } else { vec![base.argv] },
            wrapper: self.wrapper().cloned(),
            worker: !provided,
            extensions: self.external_extensions(),
            window: Duration::from_millis(limits.init_ms),
            reply_bytes: usize::try_from(limits.reply_bytes).unwrap_or(usize::MAX),
            stream_bytes: limits.stream_bytes,
            provided,
            host_network,
            durable: self.shared.durable.get().filter(|_| self.is_durable()).cloned(),
        };
        let sandbox = runtime_api::serve(served, setup);
        self.load(sandbox, StartKind::Boot, began.elapsed(), false).await
    }

    /// The external extensions of this function's layers: every file of one directory, as AWS has it.
    fn external_extensions(&self) -> Vec<String> {
        let Some(opt) = &self.version.opt else { return Vec::new() };
        let dir = self.shared.registry.code_dir().join(opt.as_str()).join(EXTENSIONS);
        list_extensions(&dir)
    }
}

fn list_extensions(dir: &Path) -> Vec<String> {
    // The directory itself may be a link that leads anywhere on this machine; only a real one is looked into.
    if !std::fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|e| e.file_type().is_ok_and(|t| !t.is_dir()));
    let mut names: Vec<String> = files.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names.truncate(MAX_LISTED);
    names.into_iter().map(|name| format!("/opt/{EXTENSIONS}/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_the_files_of_one_directory() {
        let layer = tempfile::tempdir().unwrap();
        let dir = layer.path().join("extensions");
        assert!(list_extensions(&dir).is_empty());
        std::fs::create_dir_all(dir.join("assets")).unwrap();
        for name in ["two", "one"] {
            std::fs::write(dir.join(name), "x").unwrap();
        }
        assert_eq!(list_extensions(&dir), ["/opt/extensions/one", "/opt/extensions/two"]);
        let link = layer.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(list_extensions(&link).is_empty());
    }
}
