#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include "core/error.h"
#include "support/test.h"

namespace lowrank::test {

static int failures_in_case = 0;
static std::string (*skip_reason)() = nullptr;

SkipUnless::SkipUnless(std::string (*reason)()) { skip_reason = reason; }

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

void report_failure(const char* file, int line, const std::string& message) {
  ++failures_in_case;
  std::printf("  %s:%d: %s\n", file, line, message.c_str());
}

}  // namespace lowrank::test

// With an argument, only the cases whose name contains it run.
int main(int argc, char** argv) {
  using namespace lowrank::test;
  const std::string reason = skip_reason ? skip_reason() : "";
  if (!reason.empty()) {
    std::printf("skipped: %s\n", reason.c_str());
    return kSkipped;
  }
  std::stable_partition(cases().begin(), cases().end(), [](const Case& c) { return !c.last; });
  int passed = 0, failed = 0;
  for (const Case& test : cases()) {
    if (argc > 1 && !std::strstr(test.name.c_str(), argv[1])) continue;
    failures_in_case = 0;
    try {
      test.body();
    } catch (const lowrank::Error& error) {
      report_failure(test.name.c_str(), 0,
                     std::string("threw: ") + error.what() + " | " + error.where());
    } catch (const std::exception& error) {
      report_failure(test.name.c_str(), 0, std::string("threw: ") + error.what());
    }
    std::printf("%s %s\n", failures_in_case ? "FAIL" : "ok  ", test.name.c_str());
    (failures_in_case ? failed : passed)++;
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed || passed == 0;
}
