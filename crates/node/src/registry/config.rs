//! From settings to a configuration: what was asked for, over what was there, over the defaults.
//!
//! Pure apart from looking into the tree of code for the handler. It checks that runtime and handler exist; ranges are
//! `FunctionConfig::validate`'s.

use offshoot_model::function::defaults;
use offshoot_model::{Error, FunctionConfig, FunctionName, Network, SandboxKind};

use super::Settings;
use super::detect::{self, Found, Said};
use super::tree::Tree;
use crate::runtime::RuntimeTable;

/// The configuration of new code. What an earlier version had is kept where it still fits: if its handler is not in the new
/// code, runtime and handler are found anew.
pub(super) fn for_deploy(
    name: &FunctionName,
    settings: &Settings,
    old: Option<&FunctionConfig>,
    tree: &Tree,
    stripped: Option<&str>,
    runtimes: &RuntimeTable,
) -> Result<FunctionConfig, Error> {
    let fits = |old: &&FunctionConfig| {
        settings.runtime.is_none_or(|r| r.language == old.runtime.language)
            && detect::has_handler(tree, &old.handler, old.runtime.language)
    };
    let kept = old.filter(|_| settings.handler.is_none()).filter(fits);
    let said = Said {
        runtime: settings.runtime.or(kept.map(|k| k.runtime)),
        handler: settings.handler.as_deref().or(kept.map(|k| k.handler.as_str())),
        convention: settings.convention.or(kept.map(|k| k.convention)),
    };
    let found = detect::detect(tree, stripped, said, runtimes)?;
    let base = old.cloned().unwrap_or_else(|| fresh(name, &found));
    Ok(over(
        settings,
        FunctionConfig { runtime: found.runtime, handler: found.handler, convention: found.convention, ..base },
    ))
}

/// The configuration after a change of settings. The code is looked at (`code` opens it) only if runtime or handler change.
pub(super) fn for_change(
    settings: &Settings,
    old: &FunctionConfig,
    code: impl FnOnce() -> Result<(Tree, Option<String>), Error>,
    runtimes: &RuntimeTable,
) -> Result<FunctionConfig, Error> {
    let mut config = old.clone();
    if settings.runtime.is_some() || settings.handler.is_some() {
        let (tree, stripped) = code()?;
        let said = Said {
            runtime: Some(settings.runtime.unwrap_or(old.runtime)),
            handler: Some(settings.handler.as_deref().unwrap_or(&old.handler)),
            convention: Some(old.convention),
        };
        let found = detect::detect(&tree, stripped.as_deref(), said, runtimes)?;
        (config.runtime, config.handler) = (found.runtime, found.handler);
    }
    config.convention = settings.convention.unwrap_or(old.convention);
    Ok(over(settings, config))
}

/// A function that nothing was said about.
fn fresh(name: &FunctionName, found: &Found) -> FunctionConfig {
    FunctionConfig {
        name: name.clone(),
        runtime: found.runtime,
        handler: found.handler.clone(),
        convention: found.convention,
        memory: defaults::MEMORY,
        timeout: defaults::TIMEOUT,
        env: Default::default(),
        sandbox: SandboxKind::Process,
        network: Network::None,
        cpu: None,
        tmp: defaults::TMP,
        snapshot: false,
        max_concurrency: 1,
        concurrency: None,
        rate_limit: 0,
        keep_alive: None,
    }
}

/// Settings that are plain values, over a configuration.
fn over(settings: &Settings, base: FunctionConfig) -> FunctionConfig {
    FunctionConfig {
        memory: settings.memory.unwrap_or(base.memory),
        timeout: settings.timeout.unwrap_or(base.timeout),
        env: settings.env.clone().unwrap_or(base.env),
        network: settings.network.unwrap_or(base.network),
        cpu: settings.cpu.unwrap_or(base.cpu),
        tmp: settings.tmp.unwrap_or(base.tmp),
        snapshot: settings.snapshot.unwrap_or(base.snapshot),
        max_concurrency: settings.max_concurrency.unwrap_or(base.max_concurrency),
        concurrency: settings.concurrency.map_or(base.concurrency, |c| Some(c).filter(|c| *c > 0)),
        rate_limit: settings.rate_limit.unwrap_or(base.rate_limit),
        keep_alive: settings.keep_alive.unwrap_or(base.keep_alive),
        ..base
    }
}
