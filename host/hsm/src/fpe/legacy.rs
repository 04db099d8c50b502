//! FF3-1 with AES in the token (SP 800-38G r1, draft of 2019; not approved by NIST since 2025): for data that exists.
//!
//! The token's AES runs under REVB(K), the byte-reversed key. A key that is generated here simply *is* REVB(K). To read data
//! that another product made under K, the *reversed* bytes of K have to be brought into the token: no token reverses a key.

use cryptoki::object::ObjectHandle;

use super::ff3::Ff3Work;
use super::stream::Stream;
use super::words::Direction;
use super::{Backend, BatchReport, Ff1Value};
use crate::HsmError;
use crate::sessions::Sessions;

pub(super) const ACTION: &str = "use FF3-1";

/// FF3-1 with AES under any key handle, which holds the reversed key.
pub(super) fn run(
    sessions: &Sessions,
    key: ObjectHandle,
    radix: u32,
    batch: &mut [Ff1Value],
    direction: Direction,
) -> Result<BatchReport, HsmError> {
    let work = Ff3Work::prepare(radix, batch, direction)?;
    if batch.is_empty() {
        return Ok(BatchReport { hsm_calls: 0, values: 0, backend: Backend::HostFeistel });
    }
    let stream = Stream::open(sessions, key, ACTION)?;
    let (outputs, report) = work.run(&stream)?;
    stream.close()?;
    outputs.write(batch);
    Ok(report)
}
