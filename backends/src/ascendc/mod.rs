//! Ascend C: a model of the API of NPUs of the Atlas A2 series, in the dialect of CANN 8, that runs kernels on any machine.

pub mod emulator;

/// The model: C++20 headers by their names. `kernel_operator.h` is what kernels include.
pub const MODEL: &[(&str, &str)] = &[
    ("kernel_operator.h", include_str!("model/kernel_operator.h")),
    ("numbers.h", include_str!("model/numbers.h")),
    ("report.h", include_str!("model/report.h")),
    ("memory.h", include_str!("model/memory.h")),
    ("machine.h", include_str!("model/machine.h")),
    ("tensor.h", include_str!("model/tensor.h")),
    ("sync.h", include_str!("model/sync.h")),
    ("queue.h", include_str!("model/queue.h")),
    ("copy.h", include_str!("model/copy.h")),
    ("vector.h", include_str!("model/vector.h")),
    ("reduce.h", include_str!("model/reduce.h")),
    ("select.h", include_str!("model/select.h")),
    ("cube.h", include_str!("model/cube.h")),
    ("driver.h", include_str!("model/driver.h")),
];

/// The cores of a block of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskType {
    /// A vector core.
    Vector,
    /// A vector core that may wait for others.
    MixedVector,
    /// A cube unit.
    Cube,
    /// A cube unit that may wait for others.
    MixedCube,
    /// A cube unit and one vector core.
    OneVector,
    /// A cube unit and two vector cores.
    TwoVectors,
}

impl TaskType {
    /// Each with the vendor's name of it.
    pub const ALL: [(TaskType, &'static str); 6] = [
        (TaskType::Vector, "AIV_ONLY"),
        (TaskType::MixedVector, "MIX_AIV_1_0"),
        (TaskType::Cube, "AIC_ONLY"),
        (TaskType::MixedCube, "MIX_AIC_1_0"),
        (TaskType::OneVector, "MIX_AIC_1_1"),
        (TaskType::TwoVectors, "MIX_AIC_1_2"),
    ];

    /// The vendor's name.
    pub fn keyword(self) -> &'static str {
        TaskType::ALL.iter().find(|(t, _)| *t == self).map_or("", |(_, name)| name)
    }
}
