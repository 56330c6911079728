"""The AWS platform's Lambdas: each module is one, or one group, and each ``handler`` takes AWS's event.

They hold no decisions of their own: control/ decides, api/ speaks HTTP, engines/aws does.
"""
