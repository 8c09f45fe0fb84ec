# How Quad's modules, programs and tests are declared. A module is a folder src/<name>: every x.cc is part of the
# library quad_<name>, every x_test.cc part of the test program <name>_test. Main files are programs of their own.
# A module may also be a FOLDER inside another's, declared before it, whose library then leaves that folder out.

find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(PkgConfig REQUIRED)

# Boost 1.81 is installed beside Debian's default Boost; its headers are on the default include path.
add_library(boost_url INTERFACE)
target_link_libraries(boost_url INTERFACE boost_url)

# libarchive and zstd are linked statically: the shared libarchive draws in ICU and libxml2, which cost more start-up
# time than the whole of `quad status`.
add_library(quad_archive INTERFACE)
target_link_libraries(quad_archive INTERFACE -l:libarchive.a -l:libzstd.a -l:libz.a)
# What writes tar drags in code for formats whose libraries are not linked: it goes before it is missed.
target_link_options(quad_archive INTERFACE -Wl,--gc-sections)

# For the runner, which is linked statically as a whole.
add_library(quad_static_tls INTERFACE)
target_link_libraries(quad_static_tls INTERFACE -l:libssl.a -l:libcrypto.a ${CMAKE_DL_LIBS} Threads::Threads)
add_library(quad_cares INTERFACE)
target_link_libraries(quad_cares INTERFACE -l:libcares.a)

add_library(quad_options INTERFACE)
target_include_directories(quad_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_definitions(quad_options INTERFACE
  BOOST_ALL_NO_LIB BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_SEPARATE_COMPILATION BOOST_BEAST_SEPARATE_COMPILATION
  QUAD_VERSION="${PROJECT_VERSION}")
target_compile_options(quad_options INTERFACE
  -Wall -Wextra -Wpedantic -Werror -Wshadow -Wnon-virtual-dtor -Wconversion -Wno-sign-conversion
  -Wimplicit-fallthrough -Wno-missing-field-initializers -fno-omit-frame-pointer -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 reports these inside the standard library and Boost at -O2 (GCC bugs 105329, 105562, 107852).
  target_compile_options(quad_options INTERFACE -Wno-restrict -Wno-maybe-uninitialized -Wno-stringop-overflow
    -Wno-array-bounds -Wno-stringop-overread -Wno-free-nonheap-object -Wno-dangling-pointer -Wno-mismatched-new-delete)
endif()
if(QUAD_SANITIZE)
  target_compile_options(quad_options INTERFACE -fsanitize=${QUAD_SANITIZE} -fno-sanitize-recover=all)
  # It looks at memory through a pipe, and calls an object wrong where no file can be opened, which tests do.
  target_compile_options(quad_options INTERFACE -fno-sanitize=vptr)
  target_link_options(quad_options INTERFACE -fsanitize=${QUAD_SANITIZE})
  if(QUAD_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(quad_options INTERFACE -Wno-tsan)  # Asio's fences, which it cannot see through
  endif()
endif()

find_program(MOLD mold)
if(MOLD)
  # GCC 12 has -fuse-ld=mold from 12.1 on; clang has it too.
  target_link_options(quad_options INTERFACE -fuse-ld=mold)
endif()

if(QUAD_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

function(quad_module name)
  cmake_parse_arguments(ARG "" "FOLDER" "DEPS" ${ARGN})
  set(folder ${CMAKE_SOURCE_DIR}/src/${name})
  if(ARG_FOLDER)
    set(folder ${CMAKE_SOURCE_DIR}/src/${ARG_FOLDER})
    set_property(GLOBAL APPEND PROPERTY quad_inner_folders ${folder})
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*.cc)
  get_property(inner_folders GLOBAL PROPERTY quad_inner_folders)
  foreach(inner IN LISTS inner_folders)
    if(NOT inner STREQUAL folder)
      list(FILTER sources EXCLUDE REGEX "^${inner}/")
    endif()
  endforeach()
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$|/main\\.cc$|_main\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(sources)
    add_library(quad_${name} STATIC ${sources})
    target_link_libraries(quad_${name} PUBLIC quad_options ${ARG_DEPS})
  else()
    add_library(quad_${name} INTERFACE)
    target_link_libraries(quad_${name} INTERFACE quad_options ${ARG_DEPS})
  endif()
  if(QUAD_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE quad_${name} GTest::gmock GTest::gtest_main)
    set(limit 120)  # seconds for one test
    if(QUAD_SANITIZE)
      set(limit 1200)
    endif()
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT ${limit})
  endif()
endfunction()

function(quad_program name)
  cmake_parse_arguments(ARG "STATIC" "MAIN" "DEPS" ${ARGN})
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/${ARG_MAIN})
    return()
  endif()
  add_executable(${name} ${ARG_MAIN})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  if(ARG_STATIC AND NOT QUAD_SANITIZE)
    target_link_options(${name} PRIVATE -static)
  endif()
  if(CMAKE_BUILD_TYPE STREQUAL "Release")
    target_link_options(${name} PRIVATE -s)
  endif()
endfunction()
