# Applies FARSPAN_SANITIZE to every target; a report ends the process.
if(FARSPAN_SANITIZE)
  add_compile_options(-fsanitize=${FARSPAN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${FARSPAN_SANITIZE})
endif()
