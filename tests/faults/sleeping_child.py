"""`python -m sleeping_child ANYTHING`: does nothing until it is ended; stands for a process with these arguments."""

import time

time.sleep(600)
