// Assertions that stay in every build. The first that fails ends the program with its place and the values given.
#pragma once
#include <cstdlib>
#include <iostream>

template <class... Values>
[[noreturn]] void check_failed(const char* file, int line, const char* text, const Values&... values) {
  std::cerr << file << ':' << line << ": not true: " << text;
  std::cerr.precision(17);
  ((std::cerr << "  " << values), ...);
  std::cerr << std::endl;
  std::_Exit(1);
}

#define CHECK(condition) ((condition) ? void() : check_failed(__FILE__, __LINE__, #condition))

// With values to print, such as the loop's variables.
#define CHECK_WITH(condition, ...) ((condition) ? void() : check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))

#define CHECK_THROWS(Exception, ...)                                                          \
  do {                                                                                        \
    bool thrown = false;                                                                      \
    try {                                                                                     \
      __VA_ARGS__;                                                                            \
    } catch (const Exception&) {                                                              \
      thrown = true;                                                                          \
    }                                                                                         \
    if (!thrown) check_failed(__FILE__, __LINE__, "throws " #Exception ": " #__VA_ARGS__);    \
  } while (false)
