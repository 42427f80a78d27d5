#pragma once

#include "cpu/cpu_device.h"

namespace lowrank::cpu {

// As Backend::measure_peak.
double measure_peak(CpuDevice& device, PeakKind kind, double seconds);

}  // namespace lowrank::cpu
