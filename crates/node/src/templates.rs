//! Language templates: one live process per language version, booted on demand, cloned for every start, rebuilt when it
//! dies. And the programs behind them: how a language names what is to be executed.
//!
//! No code of a user ever runs in a language template.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offshoot_model::{Language, RuntimeName};
use offshoot_sandbox::control::State;
use offshoot_sandbox::process::{Bind, ready};
use offshoot_sandbox::{BoxRequest, Driver, Program, Template};

use crate::pool::LATE_CLONES;
use crate::runtime::Installed;

/// How long a template may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// How long a language that cannot be cloned is left alone before it is tried again; doubles up to `RETRY_MAX`.
const RETRY: Duration = Duration::from_secs(2);
/// Longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(120);

/// How a worker is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As a template.
    Template,
    /// As a worker, from nothing.
    Boot,
}

/// The program of a language version.
pub fn program(installed: &Installed, mode: Mode, runtime_dir: &Path) -> Program {
    let mut binds = vec![Bind { from: runtime_dir.to_owned(), to: "/var/runtime".into(), writable: false }];
    let executable = match &installed.prefix {
        None => installed.executable.clone(),
        // Ruby finds its library by the path that it was built for.
        Some(prefix) if installed.name.language == Language::Ruby => {
            binds.push(Bind { from: prefix.clone(), to: prefix.clone(), writable: false });
            installed.executable.clone()
        }
        Some(prefix) => {
            // An interpreter outside the system's directories is shown where AWS has it.
            binds.push(Bind { from: prefix.clone(), to: "/var/lang".into(), writable: false });
            let inside = installed.executable.strip_prefix(prefix).unwrap_or(Path::new("bin/missing"));
            Path::new("/var/lang").join(inside)
        }
    };
    let mode = match mode {
        Mode::Template => "template",
        Mode::Boot => "boot",
    };
    let mut argv = vec![executable.to_string_lossy().into_owned()];
    let tail: &[&str] = match installed.name.language {
        // Without these a compiler thread of V8 may hold a lock at the moment of a fork, and the clone hangs.
        // And V8 collects garbage when a process has been quiet for some seconds: in a clone of a quiet template, at once.
        Language::Node => {
            &["--single-threaded", "--v8-pool-size=0", "--no-memory-reducer", "/var/runtime/node/worker.cjs"]
        }
        // -s: no site directory of a user; -B: no bytecode beside read-only code; utf8: whatever the locale is called.
        Language::Python => &["-s", "-B", "-X", "utf8", "/var/runtime/python/worker.py"],
        // utf8: whatever the locale is called.
        Language::Ruby => &["-EUTF-8", "/var/runtime/ruby/worker.rb"],
        // Its program is found in the box (`runtime_api`), and needs no argument of ours.
        Language::Provided | Language::Java | Language::Dotnet => {
            return Program { argv: Vec::new(), env: base_env(), binds };
        }
    };
    argv.extend(tail.iter().map(|s| (*s).to_owned()));
    argv.push(mode.to_owned());
    argv.push("/var/runtime/libjail.so".to_owned());
    Program { argv, env: base_env(), binds }
}

/// AWS's value. An interpreter that is shown at `/var/lang` finds its own libraries by it, wherever it was built for.
pub const LIBRARY_PATH: &str =
    "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib";

/// The environment of every worker before its function's own is set (AWS's names and values where a box has the thing).
fn base_env() -> Vec<(String, String)> {
    [
        ("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin"),
        ("LD_LIBRARY_PATH", LIBRARY_PATH),
        ("LANG", "C.UTF-8"),
        ("TZ", ":UTC"),
        ("HOME", "/tmp"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

/// The live templates of this machine.
#[derive(Debug)]
pub struct Templates {
    driver: Arc<Driver>,
    runtime_dir: PathBuf,
    spares: usize,
    slots: Mutex<HashMap<RuntimeName, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    state: tokio::sync::Mutex<SlotState>,
    /// The last known state, for those who only look.
    shown: Mutex<Option<Result<String, String>>>,
}

#[derive(Debug, Default)]
struct SlotState {
    live: Option<Arc<Template>>,
    /// Clones that took too long since one was made.
    late: u32,
    failed: Option<(Instant, Duration, String)>,
}

impl Templates {
    /// No template is booted yet.
    pub fn new(driver: Arc<Driver>, runtime_dir: PathBuf, spares: usize) -> Self {
        Templates { driver, runtime_dir, spares, slots: Mutex::default() }
    }

    /// The files that boxes see as `/var/runtime`.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// The template of this language version, booted if need be. `Err` says why it cannot be cloned now; the caller boots.
    pub async fn get(&self, installed: &Installed) -> Result<Arc<Template>, String> {
        if installed.name.language == Language::Provided {
            return Err("a custom runtime is started by its own program".to_owned());
        }
        let slot = self.slot(installed.name);
        let mut state = slot.state.lock().await;
        if let Some(live) = &state.live {
            if *live.state().borrow() != State::Gone {
                return Ok(live.clone());
            }
            tracing::warn!(runtime = %installed.name, "a language template is gone and is rebuilt");
            state.live = None;
        }
        if let Some((when, pause, why)) = &state.failed
            && when.elapsed() < *pause
        {
            return Err(why.clone());
        }
        let made = self.boot(installed).await;
        let mut shown = slot.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok((template, version)) => {
                let template = Arc::new(template);
                self.driver.brew_spares(&template, &BoxRequest::spare(), self.spares);
                *state = SlotState { live: Some(template.clone()), ..SlotState::default() };
                *shown = Some(Ok(version));
                Ok(template)
            }
            Err(why) => {
                let pause = state.failed.as_ref().map_or(RETRY, |(_, pause, _)| (*pause * 2).min(RETRY_MAX));
                tracing::warn!(runtime = %installed.name, %why, "this language cannot be cloned now; its starts boot");
                state.failed = Some((Instant::now(), pause, why.clone()));
                *shown = Some(Err(why.clone()));
                Err(why)
            }
        }
    }

    /// A start has been made: replaces the spare that it may have used.
    pub fn refill(&self, name: RuntimeName, template: &Arc<Template>) {
        // Whoever holds the lock makes a template or counts a late clone: one count more or less is no matter.
        if let Ok(mut state) = self.slot(name).state.try_lock() {
            state.late = 0;
        }
        self.driver.brew_spares(template, &BoxRequest::spare(), self.spares);
    }

    /// A clone of this template took too long on a busy machine. One that has been late again and again is taken for hung.
    pub async fn late(&self, name: RuntimeName, template: &Arc<Template>) {
        let late = {
            let slot = self.slot(name);
            let mut state = slot.state.lock().await;
            state.late += 1;
            state.late
        };
        if late >= LATE_CLONES {
            self.suspect(name, template).await;
        }
    }

    /// A clone of this template failed, or it hangs: it is ended, and the next `get` boots another.
    pub async fn suspect(&self, name: RuntimeName, template: &Arc<Template>) {
        let slot = self.slot(name);
        let mut state = slot.state.lock().await;
        if state.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, template)) {
            tracing::warn!(runtime = %name, "a language template does not answer and is replaced");
            template.process().kill();
            (state.live, state.late) = (None, 0);
        }
    }

    /// What is known of each language version that has been tried: its version, or why it cannot be cloned.
    pub fn known(&self) -> Vec<(RuntimeName, Result<String, String>)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = slots
            .iter()
            .filter_map(|(name, slot)| {
                Some((*name, slot.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()?))
            })
            .collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }

    /// Ids of the live templates' processes, for benchmarks and tests that kill them.
    pub fn pids(&self) -> Vec<(RuntimeName, u32)> {
        let slots: Vec<_> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.iter().map(|(n, s)| (*n, s.clone())).collect()
        };
        slots
            .into_iter()
            .filter_map(|(name, slot)| {
                let state = slot.state.try_lock().ok()?;
                Some((name, state.live.as_ref()?.process().pid()?))
            })
            .collect()
    }

    fn slot(&self, name: RuntimeName) -> Arc<Slot> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
    }

    async fn boot(&self, installed: &Installed) -> Result<(Template, String), String> {
        let program = program(installed, Mode::Template, &self.runtime_dir);
        let template = self.driver.template(&program).await.map_err(|e| e.to_string())?;
        let version = ready(&template, READY).await.map_err(|e| e.to_string())?;
        Ok((template, version))
    }
}
