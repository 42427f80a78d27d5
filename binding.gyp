# For `node-gyp rebuild`: CMake owns every source file, this only forwards to it (through cmake-js).
# It isn't published: npm would run it as an install script.
{
  'targets': [{
    'target_name': 'lowrank_cmake',
    'type': 'none',
    'actions': [{
      'action_name': 'cmake',
      'inputs': ['CMakeLists.txt'],
      'outputs': ['<(module_root_dir)/build/cmake/Release/lowrank.node'],
      'action': ['node', 'node_modules/cmake-js/bin/cmake-js', 'build', '-O', 'build/cmake',
                 '-T', 'lowrank_node']
    }],
    'copies': [{
      'destination': '<(PRODUCT_DIR)',
      'files': ['build/cmake/Release/lowrank.node']
    }]
  }]
}
