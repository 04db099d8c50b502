//! An import that no manifest can grant.

use casemate_sdk::Decision;

pub(crate) fn network(_: &str) -> Decision {
    drop(bindings::wasi::sockets::instance_network::instance_network());
    Decision::allow()
}

#[allow(unsafe_code, missing_docs, clippy::all, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package casemate:hostile;

            world sockets {
                import wasi:sockets/instance-network@0.2.0;
            }

            package wasi:sockets@0.2.0 {
                interface network {
                    resource network;
                }
                interface instance-network {
                    use network.{network};
                    instance-network: func() -> network;
                }
            }
        ",
        generate_all,
    });
}
