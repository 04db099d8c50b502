use std::sync::Arc;

use casemate_types::PluginName;
use wasmtime::component::ResourceTable;

use crate::Refusal;
use crate::limiter::Limiter;
use crate::services::{Exchange, HostAnswer, HostCall, Invocation};

/// The grants and limits of one plugin, shared by all its runs.
pub(crate) struct Grant {
    pub(crate) plugin: PluginName,
    pub(crate) keys: Vec<String>,
    pub(crate) host_calls: u32,
    pub(crate) host_bytes: u64,
    pub(crate) memory_bytes: usize,
    pub(crate) table_elements: usize,
}

/// Everything one run of a component owns on the host's side. Lives as long as its store: one call.
pub(crate) struct HostState {
    pub(crate) limiter: Limiter,
    pub(crate) table: ResourceTable,
    pub(crate) trace: Vec<Exchange>,
    grant: Arc<Grant>,
    invocation: Invocation,
    bytes_used: u64,
    calls_used: u32,
}

/// An opened FPE key: its site name. The key itself stays in the HSM.
pub struct FpeKey(pub(crate) String);
/// An opened HSM key: its site name.
pub struct HsmKey(pub(crate) String);
/// An opened collection: its name.
pub struct Collection(pub(crate) String);
/// An embedded question: its text. The vector stays with the gate.
pub struct Query(pub(crate) String);

/// Handles a component may hold at once; far below wasmtime's default, because a decision needs a handful.
const MAX_RESOURCES: usize = 64;

impl HostState {
    pub(crate) fn new(grant: Arc<Grant>, invocation: Invocation) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Self {
            limiter: Limiter::new(grant.memory_bytes, grant.table_elements),
            table,
            trace: Vec::new(),
            grant,
            invocation,
            bytes_used: 0,
            calls_used: 0,
        }
    }

    /// Whether the manifest names this key.
    pub(crate) fn may_use_key(&self, name: &str) -> bool {
        self.grant.keys.iter().any(|key| key == name)
    }

    /// Charges a call and its arguments. The first thing every host function does, whatever it then answers.
    pub(crate) fn enter(&mut self, argument_bytes: usize) -> wasmtime::Result<()> {
        if self.calls_used >= self.grant.host_calls {
            return Err(Refusal::CallBudget { limit: self.grant.host_calls }.into());
        }
        self.calls_used += 1;
        self.charge(argument_bytes)
    }

    /// Asks the services, charges the answer, records the exchange.
    pub(crate) async fn ask(&mut self, call: HostCall) -> wasmtime::Result<HostAnswer> {
        let answer = match &call {
            HostCall::ClockNow => HostAnswer::Time(self.invocation.now_ms),
            HostCall::SessionClaims => HostAnswer::Claims(self.invocation.claims.clone()),
            other => self.invocation.services.call(&self.grant.plugin, other).await,
        };
        self.charge(answer.size())?;
        self.trace.push(Exchange { call, answer: answer.clone() });
        Ok(answer)
    }

    fn charge(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.bytes_used = self.bytes_used.saturating_add(bytes as u64);
        if self.bytes_used > self.grant.host_bytes {
            return Err(Refusal::ByteBudget { limit: self.grant.host_bytes }.into());
        }
        Ok(())
    }
}
