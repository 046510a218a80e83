//! What a daemon changes in a namespace, as it is at one moment.

use eastgate_fastpath::tcx::Way;
use eastgate_testkit::Facts;

use super::{Space, hooks, world::must};

/// Settings, devices, traffic control and programs of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine(Facts);

impl Machine {
    /// As it is now.
    pub fn of(space: &Space) -> Self {
        let mut facts = must(Facts::of_namespace(space.netns()));
        for device in
            space.enter(|| nix::net::if_::if_nameindex().unwrap().iter().map(name).collect::<Vec<_>>())
        {
            for way in Way::ALL {
                let programs = hooks::programs(space, &device, way);
                facts.add(format!("tcx {device} {} {programs:?}", way.name()));
            }
        }
        Self(facts)
    }

    /// What is different in `after`: `-` was there, `+` is there.
    pub fn changes(&self, after: &Self) -> Vec<String> {
        self.0.changes(&after.0)
    }
}

fn name(device: &nix::net::if_::Interface) -> String {
    device.name().to_string_lossy().into_owned()
}
