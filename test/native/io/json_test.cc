#include "io/json.h"

#include "core/error.h"
#include "support/test.h"

namespace lowrank {
namespace {

Json parse(const std::string& text) { return Json::parse(text, "file.json"); }

TEST(json_reads_every_kind_of_value) {
  const Json json =
      parse(R"( {"b":[true,false,null],"a":{"x":-1.5e3,"i":9223372036854775807},"s":""} )");
  CHECK_EQ(json.as_object("")[0].first, "b");  // order is kept
  CHECK_EQ(json.find("b")->as_array("").size(), size_t{3});
  CHECK(json.find("b")->as_array("")[2].is_null());
  CHECK_EQ(json.find("a")->find("x")->as_number(""), -1500.0);
  CHECK_EQ(json.find("a")->find("i")->as_integer(""), INT64_MAX);
  CHECK(json.find("missing") == nullptr);
}

TEST(json_reads_integers_beyond_64_bits_as_numbers) {
  CHECK_EQ(parse("1000000000000000019884624838656").as_number(""), 1e30);
}

TEST(json_reads_escapes) {
  CHECK_EQ(parse(R"("\u0041\n\"\\\/\u00e9\u20ac\ud83d\ude00")").as_string(""),
           "A\n\"\\/\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
}

TEST(json_errors_name_line_and_column) {
  CHECK_ERROR(parse("{\n  \"a\": tru\n}"), ErrorCode::kInvalidFile, "file.json:2:8");
  CHECK_ERROR(parse("{\"a\":1,\"a\":2}"), ErrorCode::kInvalidFile, "stands twice");
  CHECK_ERROR(parse("[1,2"), ErrorCode::kInvalidFile, "expected ','");
  CHECK_ERROR(parse(""), ErrorCode::kInvalidFile, "unexpected end");
}

TEST(json_refuses_what_isnt_json) {
  for (const char* text : {"[1,]",        "{\"a\":1,}",  "{a:1}",       "NaN",
                           "Infinity",    "01",          "1.",          "1e",
                           "+1",          ".5",          "\"a",         "'a'",
                           "\"\\x\"",     "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"",
                           "\"\\u12g4\"", "\"a\nb\"",    "// c\n1",     "1 2",
                           "{\"a\" 1}",   "{\"a\":}",    "nul",         "-",
                           "1e999",       "\"\\"})
    CHECK_ERROR(parse(text), ErrorCode::kInvalidFile, "not valid JSON");
  CHECK_ERROR(parse(std::string(1, '\0')), ErrorCode::kInvalidFile, "not valid JSON");
}

TEST(json_limits_depth) {
  CHECK_EQ(parse(std::string(60, '[') + std::string(60, ']')).type() == Json::Type::kArray, true);
  CHECK_ERROR(parse(std::string(1000000, '[')), ErrorCode::kInvalidFile, "nested too deeply");
}

TEST(json_types_are_checked) {
  CHECK_ERROR(parse("1").as_string("r"), ErrorCode::kInvalidFile, "expected a string");
  CHECK_ERROR(parse("1.0").as_integer("r"), ErrorCode::kInvalidFile, "expected an integer");
  CHECK_ERROR(parse("\"1\"").as_number("key r"), ErrorCode::kInvalidFile, "key r");
}

TEST(json_writes_what_it_reads) {
  const std::string text =
      R"({"a":[1,-2.5,1e-06,true,null],"o":{},"e":[],"s":"\"\\\n\u0001é","big":1e+30,"f":2.0})";
  CHECK_EQ(parse(text).dump(), text);
  CHECK_EQ(parse(parse(text).dump(2)).dump(), text);
  CHECK_EQ(parse("[1,{\"a\":2}]").dump(2), "[\n  1,\n  {\n    \"a\": 2\n  }\n]");
}

}  // namespace
}  // namespace lowrank
