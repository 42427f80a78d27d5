#include "model/config.h"

#include "core/error.h"
#include "io/json.h"
#include "model/config_reader.h"
#include "model/families/families.h"

namespace lowrank {

ModelConfig parse_model_config(const std::string& json_text, const std::string& where) {
  const Json json = Json::parse(json_text, where);
  json.as_object(where);
  ConfigReader reader(json, where);
  const Json* type = reader.field("model_type");
  if (!type) reader.invalid("model_type", "the field is missing");
  const std::string model_type = type->as_string(reader.place("model_type"));
  const Family* family = find_family(model_type);
  if (!family) {
    std::string names;
    for (const std::string& name : family_names()) names += (names.empty() ? "" : ", ") + name;
    throw Error(ErrorCode::kUnsupported, "the architecture '" + model_type + "' isn't supported",
                reader.place("model_type"), "supported are " + names);
  }

  ModelConfig config;
  config.family = model_type;
  config.block = family->block;
  config.json = json_text;
  family->read(reader, &config);
  reader.finish();
  return config;
}

}  // namespace lowrank
