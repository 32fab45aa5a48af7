puts "about to fail"
raise ArgumentError, "the moon is in the wrong phase"
