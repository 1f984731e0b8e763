//! Energy from the machine's cumulative counters: differences of a counter are exact whatever lies between two readings, where
//! sums of power samples are not.
//!
//! GPUs by NVML (total energy since the driver was loaded; Volta or newer), processor packages by RAPL as Linux shows it under
//! `/sys/class/powercap`. The counters cover whole GPUs or packages: what else runs there is counted too.

mod rapl;

use std::path::Path;

use nvml_wrapper::Nvml;

use crate::rapl::Rapl;

/// Reads one machine's counters.
#[derive(Debug)]
pub struct EnergyMeter {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Nvml { nvml: Box<Nvml>, gpus: u32 },
    Rapl(Rapl),
}

impl EnergyMeter {
    /// All GPUs of this machine, by NVML; `None` where there are none that count their energy.
    pub fn gpus() -> Option<Self> {
        Some(Self { source: nvml()? })
    }

    /// The processor packages of this machine, by RAPL; `None` where there is none, or it may not be read (it is root's on most
    /// systems).
    pub fn processors() -> Option<Self> {
        Some(Self { source: Source::Rapl(Rapl::open(Path::new("/sys/class/powercap"))?) })
    }

    /// "nvml" or "rapl".
    pub fn name(&self) -> &'static str {
        match self.source {
            Source::Nvml { .. } => "nvml",
            Source::Rapl(_) => "rapl",
        }
    }

    /// Joules since some fixed moment; `None` if the counters cannot be read any more.
    pub fn joules(&mut self) -> Option<f64> {
        match &mut self.source {
            Source::Nvml { nvml, gpus } => nvml_joules(nvml, *gpus),
            Source::Rapl(rapl) => rapl.joules(),
        }
    }
}

fn nvml() -> Option<Source> {
    // Loads libnvidia-ml.so, if it is there.
    let nvml = Nvml::init().ok()?;
    let gpus = nvml.device_count().ok().filter(|&n| n > 0)?;
    nvml_joules(&nvml, gpus)?;
    Some(Source::Nvml { nvml: Box::new(nvml), gpus })
}

fn nvml_joules(nvml: &Nvml, gpus: u32) -> Option<f64> {
    let millijoules = |gpu| nvml.device_by_index(gpu).ok()?.total_energy_consumption().ok();
    (0..gpus).map(millijoules).sum::<Option<u64>>().map(|mj| mj as f64 / 1e3)
}
