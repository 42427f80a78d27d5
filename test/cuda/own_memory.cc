// Chooses memory of the device's own before the first device is opened.
#include "model/device_memory.h"

static const bool chosen = (lowrank::cuda::model::use_device_memory(), true);
