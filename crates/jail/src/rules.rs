//! Landlock: whatever the mounts say, a box writes only beneath `/tmp`, `/dev/shm`, `/dev`, `/proc` and what it was
//! given, and signals or abstract sockets do not leave it. It never restricts reading; the mounts do that.

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::sys::{Error, Result};

/// Puts this process under the rules, for good. A kernel without Landlock is an error.
pub fn restrict(writable: &[String]) -> Result<()> {
    let status =
        apply(writable).map_err(|e| Error::new(format!("Landlock ({e})"), std::io::ErrorKind::Other.into()))?;
    if status == RulesetStatus::NotEnforced {
        return Err(Error::errno("Landlock is not enforced", libc::EOPNOTSUPP));
    }
    Ok(())
}

fn apply(writable: &[String]) -> std::result::Result<RulesetStatus, Box<dyn std::error::Error>> {
    // What the first version knows must hold; what later ones added holds where the kernel has it. Device ioctls are
    // left alone: the few devices of a box are harmless.
    let first = AccessFs::from_write(ABI::V1);
    let later = AccessFs::Refer | AccessFs::Truncate;
    let special = AccessFs::MakeChar | AccessFs::MakeBlock;
    let files: BitFlags<AccessFs> = AccessFs::WriteFile | AccessFs::Truncate;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(first)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(later)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    for path in ["/dev", "/proc"] {
        rules = allow(rules, path, files)?;
    }
    for path in ["/tmp", "/dev/shm"].into_iter().chain(writable.iter().map(String::as_str)) {
        rules = allow(rules, path, (first | later) & !special)?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

fn allow(
    rules: landlock::RulesetCreated,
    path: &str,
    access: BitFlags<AccessFs>,
) -> std::result::Result<landlock::RulesetCreated, Box<dyn std::error::Error>> {
    let place = PathFd::new(path)?;
    let rules = rules.add_rule(PathBeneath::new(place, access)).map_err(|e: RulesetError| e)?;
    Ok(rules)
}
