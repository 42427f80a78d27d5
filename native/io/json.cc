#include "io/json.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <set>

#include "core/error.h"

namespace lowrank {
namespace {

constexpr int kMaxDepth = 64;

class Parser {
 public:
  Parser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json parse() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("unexpected text after the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at_ && i < text_.size(); ++i) {
      if (text_[i] == '\n') {
        ++line;
        column = 1;
      } else {
        ++column;
      }
    }
    throw Error(ErrorCode::kInvalidFile, "not valid JSON: " + message,
                where_ + ":" + std::to_string(line) + ":" + std::to_string(column));
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void expect(char c) {
    if (peek() != c || at_ >= text_.size()) fail(std::string("expected '") + c + "'");
    ++at_;
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) fail("nested too deeply");
    skip_space();
    if (at_ >= text_.size()) fail("unexpected end");
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        return Json(parse_string());
      default:
        if (take("true")) return Json(true);
        if (take("false")) return Json(false);
        if (take("null")) return Json();
        return parse_number();
    }
  }

  Json parse_object(int depth) {
    Json object = Json::object();
    std::set<std::string> keys;
    expect('{');
    skip_space();
    if (peek() == '}') {
      ++at_;
      return object;
    }
    for (;;) {
      skip_space();
      std::string key = parse_string();
      if (!keys.insert(key).second) fail("the key \"" + key + "\" stands twice");
      skip_space();
      expect(':');
      object.append_member(std::move(key), parse_value(depth + 1));
      skip_space();
      if (peek() == '}') break;
      expect(',');
    }
    expect('}');
    return object;
  }

  Json parse_array(int depth) {
    Json array = Json::array();
    expect('[');
    skip_space();
    if (peek() == ']') {
      ++at_;
      return array;
    }
    for (;;) {
      array.push(parse_value(depth + 1));
      skip_space();
      if (peek() == ']') break;
      expect(',');
    }
    expect(']');
    return array;
  }

  unsigned parse_hex4() {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      unsigned digit;
      if (c >= '0' && c <= '9')
        digit = static_cast<unsigned>(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit = static_cast<unsigned>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        digit = static_cast<unsigned>(c - 'A' + 10);
      else
        fail("expected four hexadecimal digits");
      value = value * 16 + digit;
    }
    return value;
  }

  static void append_utf8(std::string& out, unsigned code) {
    const auto put = [&out](unsigned byte) { out.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xc0 | (code >> 6));
      put(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      put(0xe0 | (code >> 12));
      put(0x80 | ((code >> 6) & 0x3f));
      put(0x80 | (code & 0x3f));
    } else {
      put(0xf0 | (code >> 18));
      put(0x80 | ((code >> 12) & 0x3f));
      put(0x80 | ((code >> 6) & 0x3f));
      put(0x80 | (code & 0x3f));
    }
  }

  unsigned parse_escaped_code() {
    const unsigned code = parse_hex4();
    if (code >= 0xdc00 && code <= 0xdfff) fail("unpaired surrogate");
    if (code < 0xd800 || code > 0xdbff) return code;
    if (!take("\\u")) fail("unpaired surrogate");
    const unsigned low = parse_hex4();
    if (low < 0xdc00 || low > 0xdfff) fail("unpaired surrogate");
    return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }

  std::string parse_string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) fail("the string doesn't end");
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
      ++at_;
      if (c == '"') return out;
      if (c != '\\') {
        out.push_back(c);
        continue;
      }
      const char escape = peek();
      ++at_;
      switch (escape) {
        case '"':
        case '\\':
        case '/':
          out.push_back(escape);
          break;
        case 'b':
          out.push_back('\b');
          break;
        case 'f':
          out.push_back('\f');
          break;
        case 'n':
          out.push_back('\n');
          break;
        case 'r':
          out.push_back('\r');
          break;
        case 't':
          out.push_back('\t');
          break;
        case 'u':
          append_utf8(out, parse_escaped_code());
          break;
        default:
          --at_;
          fail("unknown escape");
      }
    }
  }

  void take_digits() {
    if (peek() < '0' || peek() > '9') fail("expected a value");
    while (peek() >= '0' && peek() <= '9') ++at_;
  }

  Json parse_number() {
    const size_t begin = at_;
    bool integral = true;
    if (peek() == '-') ++at_;
    if (peek() == '0')
      ++at_;
    else
      take_digits();
    if (peek() == '.') {
      integral = false;
      ++at_;
      take_digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      take_digits();
    }
    const char* first = text_.data() + begin;
    const char* last = text_.data() + at_;
    if (integral) {
      int64_t value = 0;
      // Larger integers (model_max_length may be 1e30) fall through to a double.
      if (std::from_chars(first, last, value).ec == std::errc()) return Json(value);
    }
    double value = 0;
    if (std::from_chars(first, last, value).ec != std::errc()) fail("number out of range");
    return Json(value);
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

void write_string(std::string& out, const std::string& text) {
  out.push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char escaped[8];
          std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
          out += escaped;
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

const char* type_name(Json::Type type) {
  switch (type) {
    case Json::Type::kNull:
      return "null";
    case Json::Type::kBool:
      return "a boolean";
    case Json::Type::kInteger:
      return "an integer";
    case Json::Type::kNumber:
      return "a number";
    case Json::Type::kString:
      return "a string";
    case Json::Type::kArray:
      return "a list";
    case Json::Type::kObject:
      return "an object";
  }
  return "?";
}

}  // namespace

Json Json::parse(std::string_view text, const std::string& where) {
  return Parser(text, where).parse();
}

void Json::wrong_type(const char* expected, const std::string& where) const {
  throw Error(ErrorCode::kInvalidFile,
              std::string("expected ") + expected + ", found " + type_name(type_), where);
}

bool Json::as_bool(const std::string& where) const {
  if (!is_bool()) wrong_type("true or false", where);
  return bool_;
}

int64_t Json::as_integer(const std::string& where) const {
  if (!is_integer()) wrong_type("an integer", where);
  return integer_;
}

double Json::as_number(const std::string& where) const {
  if (is_integer()) return static_cast<double>(integer_);
  if (!is_number()) wrong_type("a number", where);
  return number_;
}

const std::string& Json::as_string(const std::string& where) const {
  if (!is_string()) wrong_type("a string", where);
  return string_;
}

const std::vector<Json>& Json::as_array(const std::string& where) const {
  if (!is_array()) wrong_type("a list", where);
  return array_;
}

const std::vector<Json::Member>& Json::as_object(const std::string& where) const {
  if (!is_object()) wrong_type("an object", where);
  return members_;
}

const Json* Json::find(std::string_view key) const {
  for (const Member& member : members_)
    if (member.first == key) return &member.second;
  return nullptr;
}

Json& Json::set(const std::string& key, Json value) {
  for (Member& member : members_) {
    if (member.first != key) continue;
    member.second = std::move(value);
    return *this;
  }
  append_member(key, std::move(value));
  return *this;
}

void Json::append_member(std::string key, Json value) {
  members_.emplace_back(std::move(key), std::move(value));
}

Json& Json::push(Json value) {
  array_.push_back(std::move(value));
  return *this;
}

std::string Json::dump(int indent) const {
  std::string out;
  write(out, indent, 0);
  return out;
}

void Json::write(std::string& out, int indent, int depth) const {
  const auto new_line = [&](int level) {
    if (indent == 0) return;
    out.push_back('\n');
    out.append(static_cast<size_t>(indent * level), ' ');
  };
  switch (type_) {
    case Type::kNull:
      out += "null";
      return;
    case Type::kBool:
      out += bool_ ? "true" : "false";
      return;
    case Type::kInteger:
      out += std::to_string(integer_);
      return;
    case Type::kNumber: {
      if (!std::isfinite(number_))
        throw Error(ErrorCode::kInvalidArgument, "JSON has no NaN or infinity");
      char digits[32];
      const auto end = std::to_chars(digits, digits + sizeof digits, number_).ptr;
      const std::string text(digits, end);
      out += text;
      // Keeps a float a float for readers that tell the two apart.
      if (text.find_first_of(".e") == std::string::npos) out += ".0";
      return;
    }
    case Type::kString:
      write_string(out, string_);
      return;
    case Type::kArray: {
      out.push_back('[');
      for (size_t i = 0; i < array_.size(); ++i) {
        if (i > 0) out.push_back(',');
        new_line(depth + 1);
        array_[i].write(out, indent, depth + 1);
      }
      if (!array_.empty()) new_line(depth);
      out.push_back(']');
      return;
    }
    case Type::kObject: {
      out.push_back('{');
      for (size_t i = 0; i < members_.size(); ++i) {
        if (i > 0) out.push_back(',');
        new_line(depth + 1);
        write_string(out, members_[i].first);
        out += indent == 0 ? ":" : ": ";
        members_[i].second.write(out, indent, depth + 1);
      }
      if (!members_.empty()) new_line(depth);
      out.push_back('}');
      return;
    }
  }
}

}  // namespace lowrank
