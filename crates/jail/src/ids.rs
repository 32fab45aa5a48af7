//! Who the program in the box is: user and group ids, its user namespace, and the end of all capabilities. It never
//! gives anything; every step takes something away.

use crate::spec::BoxSpec;
use crate::sys::{self, Error, Gate, Result, check};

/// User and group id of every program in its own user namespace, and what they are called: as on AWS Lambda (Amazon Linux 2 and 2023
/// print `uid=993(sbx_user1051) gid=990` there). Being the same everywhere, they stand in the root that all clones of a template share.
pub const INSIDE: (u32, u32) = (993, 990);

/// `/etc/passwd` and `/etc/group` of a box: root, the box's user with AWS's name and shell and a home that is there, and the owner of everything that the
/// user namespace does not know. None of the host's people and services.
pub fn accounts((uid, gid): (u32, u32)) -> [(&'static str, String); 2] {
    const USER: &str = "sbx_user1051";
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/bash\n{USER}:x:{uid}:{gid}::/tmp:/sbin/nologin\n\
        nobody:x:65534:65534:Kernel Overflow User:/:/sbin/nologin\n"
    );
    [("etc/passwd", passwd), ("etc/group", format!("root:x:0:\n{USER}:x:{gid}:\nnobody:x:65534:\n"))]
}

/// Who the program is as it sees itself.
pub fn inside(spec: &BoxSpec) -> (u32, u32) {
    if spec.userns || spec.rootless || spec.nested { INSIDE } else { (spec.uid, spec.uid) }
}

/// Becomes the box's user, in a user namespace of its own when the box says so.
pub fn become_user(spec: &BoxSpec) -> Result<()> {
    // Read before anything changes: the id that the new namespace's one entry stands for.
    let outside = if spec.rootless { (sys::euid(), sys::egid()) } else { (spec.uid, spec.uid) };
    if spec.rootless {
        check_rootless()?;
    } else {
        // A new user namespace would start with a full bounding set again, and the id takes the right to empty this one.
        if !spec.userns {
            drop_bounding()?;
        }
        set_ids(spec.uid)?;
    }
    // Changing ids has made /proc/self root's, where the maps are written.
    sys::prctl("make /proc/self ours", libc::PR_SET_DUMPABLE, 1, 0)?;
    if spec.userns || spec.rootless {
        Gate::default().unshare("make a user namespace", libc::CLONE_NEWUSER)?;
        map_ids(INSIDE, outside)?;
        drop_bounding()?;
    }
    Ok(())
}

/// Writes the maps of the user namespace that this process has just made: one user, one group.
pub fn map_ids(inside: (u32, u32), outside: (u32, u32)) -> Result<()> {
    sys::write_file(c"/proc/self/setgroups", b"deny")?;
    sys::write_file(c"/proc/self/uid_map", format!("{} {} 1", inside.0, outside.0).as_bytes())?;
    sys::write_file(c"/proc/self/gid_map", format!("{} {} 1", inside.1, outside.1).as_bytes())
}

fn set_ids(id: u32) -> Result<()> {
    // The raw calls: glibc's wrappers would also signal other threads, and the processes that come here have none.
    // SAFETY: an empty list is not read.
    check("clear the supplementary groups", unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) })?;
    // SAFETY: reads no memory.
    check("set the group id", unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) })?;
    // SAFETY: reads no memory.
    check("set the user id", unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) })?;
    Ok(())
}

/// Takes every capability out of the bounding set, so that no program file can bring one back.
pub fn drop_bounding() -> Result<()> {
    for capability in 0..64 {
        match sys::prctl("drop the bounding set", libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            // The first number that the kernel does not know.
            Err(e) if e.code() == libc::EINVAL && capability > 0 => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Gives up all capabilities, and the right to get any by executing a program.
pub fn drop_capabilities() -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let none = [0u32; 6];
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    sys::prctl("clear the ambient capabilities", libc::PR_CAP_AMBIENT, clear, 0)?;
    // SAFETY: header and sets are the kernel's version 3 layout (two sets of three words) and live across the call.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    check("drop all capabilities", ret)?;
    sys::prctl("set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    Ok(())
}

/// Enters a user namespace in which this process is root, as an ordinary user. Only for a nursery without privilege.
pub fn become_inner_root(more: libc::c_int) -> Result<()> {
    let outside = (sys::euid(), sys::egid());
    Gate::default().unshare("make the nursery's namespaces", libc::CLONE_NEWUSER | more)?;
    map_ids((0, 0), outside)
}

/// A rootless box maps its user to ours. With privilege ours would be the real root, so that must never pass.
fn check_rootless() -> Result<()> {
    let step = "read /proc/self/uid_map";
    let map = std::fs::read_to_string("/proc/self/uid_map").map_err(|e| Error::new(step, e))?;
    if map.split_whitespace().nth(2) != Some("1") {
        return Err(Error::invalid("the box says rootless, but this process has more than one user id"));
    }
    Ok(())
}
