"""x"""
def html(results): raise NotImplementedError
