//! Random values that nobody can guess: request ids, and names of temporary files.
//!
//! The kernel's random numbers are fetched in batches, one per thread; each byte is handed out once.

use std::cell::RefCell;

use offshoot_model::{Error, ErrorKind, RequestId};

const BATCH: usize = 4096;

struct Pool {
    bytes: [u8; BATCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; BATCH], used: BATCH }) };
}

/// Sixteen random bytes.
pub(crate) fn random() -> Result<[u8; 16], Error> {
    POOL.with_borrow_mut(|pool| {
        if pool.used + 16 > BATCH {
            getrandom::fill(&mut pool.bytes)
                .map_err(|e| Error::new(ErrorKind::Internal, "the machine gives no random numbers").caused_by(e))?;
            pool.used = 0;
        }
        let mut out = [0u8; 16];
        let taken = &mut pool.bytes[pool.used..pool.used + 16];
        out.copy_from_slice(taken);
        // What was handed out does not stay behind in memory.
        taken.fill(0);
        pool.used += 16;
        Ok(out)
    })
}

/// A new request id.
pub(crate) fn request_id() -> Result<RequestId, Error> {
    random().map(RequestId::from_random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<_> = (0..5_000).map(|_| request_id().unwrap()).collect();
        assert_eq!(ids.len(), 5_000);
    }
}
