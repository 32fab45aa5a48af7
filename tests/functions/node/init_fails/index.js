console.log('about to fail');
throw new RangeError('the moon is in the wrong phase');
