// One file per architecture family says which fields of config.json it reads, with its defaults,
// and which it refuses. A new family of the same block is a new file here and a line in
// families.cc; fields that nobody reads are refused by ConfigReader::finish().
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/config_reader.h"

namespace lowrank {

struct Family {
  const char* model_type;
  void (*read)(ConfigReader& reader, ModelConfig* config);
};

extern const Family kLlama, kMistral, kQwen2, kQwen3, kSmolLm3;

// Null when the family isn't supported.
const Family* find_family(const std::string& model_type);
std::vector<std::string> family_names();

}  // namespace lowrank
