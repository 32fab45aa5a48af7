#!/usr/bin/env bash
# From Maven Central: AWS's runtime interface client for Java (tests/clients/java/pom.xml), and a function compiled against it, into
# target/clients/java. There must be a JDK and Maven; they are too large to be installed for this.
set -euo pipefail
source=tests/clients/java
home=target/clients/java
for tool in javac mvn; do
  command -v "$tool" >/dev/null 2>&1 || { echo "there is no $tool"; exit 1; }
done
if ! cmp -s "$source/pom.xml" "$home/pom.xml"; then
  rm -rf "$home"
  mkdir -p "$home"
  mvn -q -B -f "$source/pom.xml" dependency:copy-dependencies -DoutputDirectory="$PWD/$home/lib"
  cp "$source/pom.xml" "$home/"
fi
[ "$home/example/App.class" -nt "$source/App.java" ] ||
  javac --release 17 -d "$home" -cp "$home/lib/*" "$source/App.java"
