"""``mip deploy``: the platform on AWS, made, tried, changed and taken down. infra/ says what it is made of."""
