// Reads config.json field by field and remembers which fields were understood, so that one nobody
// asked for is refused.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "io/json.h"

namespace lowrank {

class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  // The field, or null when it is missing or null; either way it counts as understood.
  const Json* field(const char* name);
  // Missing, as opposed to null, which some fields give a meaning of its own.
  bool has(const char* name) const { return json_.find(name) != nullptr; }
  std::string place(const std::string& name) const { return where_ + ": " + name; }

  // Each throws Error{kInvalidFile} with the field as the place when the value isn't of the kind,
  // or when there is none and no fallback.
  int64_t positive(const char* name);
  int64_t positive(const char* name, int64_t fallback);
  int64_t positive_or_zero(const char* name, int64_t fallback);
  double number(const char* name);
  double number(const char* name, double fallback);
  bool flag(const char* name, bool fallback);

  [[noreturn]] void unsupported(const std::string& name, const std::string& message) const;
  [[noreturn]] void invalid(const std::string& name, const std::string& message) const;

  // Throws Error{kUnsupported} for a field that nobody asked for and that isn't known to be without
  // effect, unless it is off: false, null, an empty list or object.
  void finish() const;

 private:
  [[noreturn]] void missing(const char* name) const;
  int64_t check_positive(const char* name, int64_t value) const;

  const Json& json_;
  std::string where_;
  std::set<std::string> seen_;
};

}  // namespace lowrank
