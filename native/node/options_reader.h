// Reads a JavaScript object of options: every value is checked, an unknown key is an error.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "node/errors.h"

namespace lowrank::node {

inline constexpr double kMaxSafeInteger = 9007199254740991.0;  // 2^53 - 1

class OptionsReader {
 public:
  // `where` names the object in messages: "loadModel options".
  OptionsReader(const Napi::Value& value, std::string where);

  // True when the key is there and not undefined.
  bool has(const char* key);
  // The value, which must be there.
  Napi::Value value(const char* key);
  double number(const char* key);
  int64_t integer(const char* key, int64_t min, int64_t max);
  bool boolean(const char* key);
  std::string text(const char* key);
  std::vector<std::string> texts(const char* key);
  OptionsReader object(const char* key);
  // A string out of a list, as the value beside it.
  template <typename T>
  T choice(const char* key, std::initializer_list<std::pair<const char*, T>> choices) {
    const std::string chosen = text(key);
    std::string names;
    for (const auto& [name, result] : choices) {
      if (chosen == name) return result;
      names += (names.empty() ? "" : ", ") + std::string(name);
    }
    fail(key, "is \"" + chosen + "\"", "one of: " + names);
  }

  // The keys of a record, whatever they are called; finish() then accepts them all.
  std::vector<std::string> keys();
  // Throws when there is a key that nobody asked for.
  void finish() const;

  [[noreturn]] void fail(const char* key, const std::string& problem,
                         const std::string& hint = {}) const;

 private:
  Napi::Object object_;
  std::string where_;
  std::vector<std::string> known_;
};

// An integer argument or array element; `where` names it.
int64_t read_integer(const Napi::Value& value, int64_t min, int64_t max, const std::string& where);
std::string read_text(const Napi::Value& value, const std::string& where);
bool is_absent(const Napi::Value& value);  // undefined or null

// A copy of a typed array's elements.
std::vector<int32_t> copy_int32(const Napi::Value& value, const std::string& where);
std::vector<float> copy_float32(const Napi::Value& value, const std::string& where);

}  // namespace lowrank::node
