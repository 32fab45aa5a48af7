print("about to fail")
raise ValueError("the moon is in the wrong phase")
