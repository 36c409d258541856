"""The program that supervises the local stack; `up` starts it."""

import sys

from deployments.local.stack import plan_stack
from deployments.running.supervisor import main

if __name__ == "__main__":
    sys.exit(main(plan_stack()))
