// One file per architecture family says which block its layers are, which fields of config.json it
// reads, with its defaults, and which it refuses. A new family is a new file here and a line in
// families.cc; a new block is a file in blocks/. Fields that nobody reads are refused by
// ConfigReader::finish().
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/config_reader.h"

namespace lowrank {

struct Family {
  const char* model_type;
  const BlockKind* block;
  void (*read)(ConfigReader& reader, ModelConfig* config);
};

extern const Family kLlama, kMistral, kQwen2, kQwen3, kSmolLm3;

// Null when the family isn't supported.
const Family* find_family(const std::string& model_type);
std::vector<std::string> family_names();

}  // namespace lowrank
