#include "node/options_reader.h"

#include <algorithm>
#include <cmath>

namespace lowrank::node {

OptionsReader::OptionsReader(const Napi::Value& value, std::string where)
    : where_(std::move(where)) {
  if (!value.IsObject() || value.IsArray()) throw_invalid("must be an object", where_);
  object_ = value.As<Napi::Object>();
}

bool OptionsReader::has(const char* key) {
  known_.emplace_back(key);
  return object_.Has(key) && !object_.Get(key).IsUndefined();
}

Napi::Value OptionsReader::value(const char* key) {
  if (!has(key)) fail(key, "is missing");
  return object_.Get(key);
}

double OptionsReader::number(const char* key) {
  const Napi::Value read = value(key);
  if (!read.IsNumber()) fail(key, "must be a number");
  const double result = read.As<Napi::Number>().DoubleValue();
  if (!std::isfinite(result)) fail(key, "must be a finite number");
  return result;
}

int64_t OptionsReader::integer(const char* key, int64_t min, int64_t max) {
  return read_integer(value(key), min, max, where_ + "." + key);
}

bool OptionsReader::boolean(const char* key) {
  const Napi::Value read = value(key);
  if (!read.IsBoolean()) fail(key, "must be true or false");
  return read.As<Napi::Boolean>().Value();
}

std::string OptionsReader::text(const char* key) {
  return read_text(value(key), where_ + "." + key);
}

std::vector<std::string> OptionsReader::texts(const char* key) {
  const Napi::Value read = value(key);
  if (!read.IsArray()) fail(key, "must be an array of strings");
  const auto array = read.As<Napi::Array>();
  std::vector<std::string> result;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    result.push_back(read_text(array.Get(i), where_ + "." + key + "[" + std::to_string(i) + "]"));
  }
  return result;
}

OptionsReader OptionsReader::object(const char* key) {
  return OptionsReader(value(key), where_ + "." + key);
}

std::vector<std::string> OptionsReader::keys() {
  const Napi::Array names = object_.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) known_.push_back(names.Get(i).ToString());
  return known_;
}

void OptionsReader::finish() const {
  const Napi::Array names = object_.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).ToString();
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    std::string all;
    for (const std::string& known : known_) {
      if (all.find(known) == std::string::npos) all += (all.empty() ? "" : ", ") + known;
    }
    fail(name.c_str(), "is not an option", "known: " + all);
  }
}

void OptionsReader::fail(const char* key, const std::string& problem,
                         const std::string& hint) const {
  throw_invalid("\"" + std::string(key) + "\" " + problem, where_, hint);
}

int64_t read_integer(const Napi::Value& value, int64_t min, int64_t max, const std::string& where) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  const bool is_integer =
      std::isfinite(number) && std::trunc(number) == number && std::abs(number) <= kMaxSafeInteger;
  if (!is_integer || static_cast<int64_t>(number) < min || static_cast<int64_t>(number) > max) {
    throw_invalid("must be an integer from " + std::to_string(min) + " to " + std::to_string(max),
                  where);
  }
  return static_cast<int64_t>(number);
}

std::string read_text(const Napi::Value& value, const std::string& where) {
  if (!value.IsString()) throw_invalid("must be a string", where);
  std::string text = value.As<Napi::String>();
  if (text.find('\0') != std::string::npos) throw_invalid("contains a null character", where);
  return text;
}

bool is_absent(const Napi::Value& value) { return value.IsUndefined() || value.IsNull(); }

namespace {

template <typename T>
std::vector<T> copy_typed(const Napi::Value& value, napi_typedarray_type type, const char* name,
                          const std::string& where) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
    throw_invalid(std::string("must be a ") + name, where);
  }
  const auto array = value.As<Napi::TypedArrayOf<T>>();
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

}  // namespace

std::vector<int32_t> copy_int32(const Napi::Value& value, const std::string& where) {
  return copy_typed<int32_t>(value, napi_int32_array, "Int32Array", where);
}

std::vector<float> copy_float32(const Napi::Value& value, const std::string& where) {
  return copy_typed<float>(value, napi_float32_array, "Float32Array", where);
}

}  // namespace lowrank::node
