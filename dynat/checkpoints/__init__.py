"""Reading and writing weights.

weights.py       safetensors files of this project          third_party.py   checkpoints trained elsewhere
network.py       the network that a row's weights belong to    start.py         first weights of a training
"""
