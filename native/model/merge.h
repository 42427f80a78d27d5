// Merging an adapter into its base model on disk.
#pragma once

#include <memory>
#include <string>

#include "backend/device.h"
#include "engine_types.h"

namespace lowrank {

// merge_adapter of engine.h.
MergeReport merge_adapter(std::shared_ptr<Device> device, const std::string& model_folder,
                          const std::string& adapter_folder, const std::string& output_folder,
                          const Progress& progress);

}  // namespace lowrank
