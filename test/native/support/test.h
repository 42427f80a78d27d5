// A small test runner: TEST(name) { CHECK(...); } and one main per executable (test_main.cc).
// Every executable ends with the line "N passed, N failed".
#pragma once

#include <cmath>
#include <cstdio>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace lowrank::test {

struct Case {
  std::string name;
  std::function<void()> body;
  bool last = false;
};

std::vector<Case>& cases();
void report_failure(const char* file, int line, const std::string& message);

struct Register {
  Register(const char* name, std::function<void()> body, bool last = false) {
    cases().push_back({name, std::move(body), last});
  }
};

// Asked before the first case: why this program can't run here, or "". It then prints
// "skipped: <why>" and ends with kSkipped.
inline constexpr int kSkipped = 77;
struct SkipUnless {
  explicit SkipUnless(std::string (*reason)());
};

}  // namespace lowrank::test

#define TEST(name)                                                            \
  static void test_##name();                                                  \
  static const ::lowrank::test::Register register_##name(#name, test_##name); \
  static void test_##name()

// Runs after all others.
#define TEST_LAST(name)                                                             \
  static void test_##name();                                                        \
  static const ::lowrank::test::Register register_##name(#name, test_##name, true); \
  static void test_##name()

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition))                                                               \
      ::lowrank::test::report_failure(__FILE__, __LINE__, "not true: " #condition); \
  } while (0)

#define CHECK_EQ(actual, expected)                                               \
  do {                                                                           \
    const auto actual_value = (actual);                                          \
    const auto expected_value = (expected);                                      \
    if (!(actual_value == expected_value)) {                                     \
      std::ostringstream text;                                                   \
      text << #actual " is " << actual_value << ", expected " << expected_value; \
      ::lowrank::test::report_failure(__FILE__, __LINE__, text.str());           \
    }                                                                            \
  } while (0)

#define CHECK_NEAR(actual, expected, tolerance)                                               \
  do {                                                                                        \
    const double actual_value = (actual), expected_value = (expected),                        \
                 tolerance_value = (tolerance);                                               \
    if (!(std::abs(actual_value - expected_value) <= tolerance_value)) {                      \
      std::ostringstream text;                                                                \
      text.precision(9);                                                                      \
      text << #actual " is " << actual_value << ", expected " << expected_value << " within " \
           << tolerance_value;                                                                \
      ::lowrank::test::report_failure(__FILE__, __LINE__, text.str());                        \
    }                                                                                         \
  } while (0)

// Checks that the expression throws lowrank::Error with this code; `text` must be part of the
// message, the place or the hint.
#define CHECK_ERROR(expression, error_code, text)                                                  \
  do {                                                                                             \
    bool threw = false;                                                                            \
    try {                                                                                          \
      (void)(expression);                                                                          \
    } catch (const ::lowrank::Error& error) {                                                      \
      threw = true;                                                                                \
      const std::string all =                                                                      \
          std::string(error.what()) + " | " + error.where() + " | " + error.hint();                \
      if (error.code() != (error_code) || all.find(text) == std::string::npos)                     \
        ::lowrank::test::report_failure(__FILE__, __LINE__, "wrong error: " + all);                \
    }                                                                                              \
    if (!threw) ::lowrank::test::report_failure(__FILE__, __LINE__, "no error from " #expression); \
  } while (0)
