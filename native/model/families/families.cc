#include "model/families/families.h"

namespace lowrank {
namespace {

constexpr const Family* kFamilies[] = {&kLlama, &kMistral, &kQwen2, &kQwen3, &kSmolLm3};

}  // namespace

const Family* find_family(const std::string& model_type) {
  for (const Family* family : kFamilies)
    if (model_type == family->model_type) return family;
  return nullptr;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family* family : kFamilies) names.push_back(family->model_type);
  return names;
}

}  // namespace lowrank
