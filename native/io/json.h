// A small strict JSON reader and writer for the headers and configurations that the engine reads:
// depth-limited, duplicate keys refused, errors with line and column. Object order is kept.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lowrank {

class Json {
 public:
  enum class Type : uint8_t { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };
  using Member = std::pair<std::string, Json>;

  Json() = default;
  Json(bool value) : type_(Type::kBool), bool_(value) {}
  Json(int64_t value) : type_(Type::kInteger), integer_(value) {}
  Json(int value) : Json(static_cast<int64_t>(value)) {}
  Json(double value) : type_(Type::kNumber), number_(value) {}
  Json(std::string value) : type_(Type::kString), string_(std::move(value)) {}
  Json(const char* value) : Json(std::string(value)) {}
  static Json array() { return Json(Type::kArray); }
  static Json object() { return Json(Type::kObject); }

  // Throws Error{kInvalidFile} at `where`:line:column. NaN and Infinity, comments and trailing
  // commas are not JSON.
  static Json parse(std::string_view text, const std::string& where);
  // `indent` 0 writes one line.
  std::string dump(int indent = 0) const;

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::kNull; }
  bool is_bool() const { return type_ == Type::kBool; }
  bool is_integer() const { return type_ == Type::kInteger; }
  bool is_number() const { return type_ == Type::kNumber || type_ == Type::kInteger; }
  bool is_string() const { return type_ == Type::kString; }
  bool is_array() const { return type_ == Type::kArray; }
  bool is_object() const { return type_ == Type::kObject; }

  // Each throws Error{kInvalidFile} naming `where` (a key or tensor) when the type is another.
  bool as_bool(const std::string& where) const;
  int64_t as_integer(const std::string& where) const;
  double as_number(const std::string& where) const;
  const std::string& as_string(const std::string& where) const;
  const std::vector<Json>& as_array(const std::string& where) const;
  const std::vector<Member>& as_object(const std::string& where) const;

  // The member, or null when this is no object or lacks it.
  const Json* find(std::string_view key) const;
  // Adds or replaces a member of an object.
  Json& set(const std::string& key, Json value);
  Json& push(Json value);
  // Adds a member without looking for an existing one.
  void append_member(std::string key, Json value);

 private:
  explicit Json(Type type) : type_(type) {}
  [[noreturn]] void wrong_type(const char* expected, const std::string& where) const;
  void write(std::string& out, int indent, int depth) const;

  Type type_ = Type::kNull;
  bool bool_ = false;
  int64_t integer_ = 0;
  double number_ = 0;
  std::string string_;
  std::vector<Json> array_;
  std::vector<Member> members_;
};

}  // namespace lowrank
